"""A parametric fetal-ultrasound simulator that writes corpora in the official layouts."""
