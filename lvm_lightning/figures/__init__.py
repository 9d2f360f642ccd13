"""Arrays → matplotlib figures; nothing here knows when it is drawn or where it goes."""
