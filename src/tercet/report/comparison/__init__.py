"""The page that compares algorithms, from the folders of their runs."""
