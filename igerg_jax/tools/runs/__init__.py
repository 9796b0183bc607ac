"""The runs in a folder on one page: how far each is, their curves over each other, their samples.

igerg runs [FOLDER] [--serve]
"""
