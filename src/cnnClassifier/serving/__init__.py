"""The web app: a page for people and JSON for programs."""
