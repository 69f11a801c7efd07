"""Gallery and animation of all epochs. Pure, like the rest of `pictures`.

entry      metrics and thumbnails of one epoch, and their JSON form
page       the HTML file: writing, reading back, size limit
evolution  the animated GIF
html/      markup, style and script of the page
"""
