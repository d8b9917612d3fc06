"""Recordings in the LeRobotDataset v3 format: parquet for numbers, mp4 for pictures, both read and written here."""
