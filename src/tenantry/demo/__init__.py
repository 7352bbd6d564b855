"""What does it look like? A small web application with tenants of its own, made on the spot."""
