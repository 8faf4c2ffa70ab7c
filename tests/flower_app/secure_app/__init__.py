"""Three silos under Flower."""
