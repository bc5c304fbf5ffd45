"""The survey as a service: store, flow, pages, server. No torch here."""
