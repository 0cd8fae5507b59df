"""What Lagar knows of models: their signatures, versions, and the home they live in."""
