"""Text: conversations become token ids, and ids become text again."""
