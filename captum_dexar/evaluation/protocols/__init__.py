"""What is measured on a sample: localisation, perturbation, sanity."""
