"""These tools know nothing of alignment: whole files, digests, messages, memory."""
