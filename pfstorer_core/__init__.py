"""Personalized face restoration without a host."""
