"""Small tools that know nothing of alignment: whole files, digests, messages, memory."""
