"""References without training: a restorer's own self-attention also looks at photos of the person."""
