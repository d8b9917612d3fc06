"""Pages that a run serves to people; nothing here knows what is learned from them."""
