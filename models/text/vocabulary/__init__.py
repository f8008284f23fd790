"""Compact fetal-ultrasound vocabulary and the script that rebuilds it."""
