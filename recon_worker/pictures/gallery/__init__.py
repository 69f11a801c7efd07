"""The gallery and the animation of all epochs; pure like the rest of `pictures`.

entry      metrics and thumbnails of one epoch, and their JSON form
page       the HTML file: written, read back, and kept below its size limit
evolution  the animated GIF
html/      markup, style and script of the page
"""
