"""Where do they live? From a tenant id, or an identifier that a request shows, to a tenant."""

from .base import Directory, WritableDirectory, check_placements

__all__ = ["Directory", "WritableDirectory", "check_placements"]
