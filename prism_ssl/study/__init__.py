"""Study: train PRISM and its opponents on public scans, and compare them on patients never seen."""
