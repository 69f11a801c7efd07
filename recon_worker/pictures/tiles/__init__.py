"""Large objects at full resolution: tiles in the Deep Zoom Image layout, and a page that shows them.

pyramid   levels and tiles of a picture
page      the viewer, recon_log/tiles.html
html/     its markup, style and script
"""
