"""SpectralMF over silos by rounds of products, where its sums would be too large to send."""
