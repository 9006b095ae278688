"""The page at ``/``: one template, plain JavaScript and CSS, answered from memory."""
