"""Images from files, bytes, arrays and URLs: opened safely, or refused with a reason."""
