"""What an app needs around it when it is deployed, derived from what it declares."""
