"""Pictures and pages of finished or running runs; words world, no jax."""
