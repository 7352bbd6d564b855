"""Where do they live? From a tenant id, or an identifier that a request shows, to a tenant."""

from .base import Directory, WritableDirectory, check_placements, default_database
from .static import Loaded, MappingDirectory, from_env, from_file, from_mapping

__all__ = [
    "Directory",
    "Loaded",
    "MappingDirectory",
    "WritableDirectory",
    "check_placements",
    "default_database",
    "from_env",
    "from_file",
    "from_mapping",
]
