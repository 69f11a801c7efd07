"""Gallery and animation of all epochs. Pure, like the rest of `pictures`.

entry       metrics and thumbnails of one epoch, and their JSON form
page        the HTML file: writing, reading back, size limit
comparison  the HTML file that shows several runs side by side
evolution   the animated GIF
html/       markup, styles and scripts of the pages
"""
