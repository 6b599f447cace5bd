"""Study: train PRISM and the methods it is compared with on public scans, and evaluate all on held-out patients."""
