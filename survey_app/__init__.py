"""The survey as a web service: state machine, storage, pages, server. It does not need torch."""
