"""DiffBIR (Lin et al. 2024): a cleaner takes the damage away, a control network brings the details back."""
