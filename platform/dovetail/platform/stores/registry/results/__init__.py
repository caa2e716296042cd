"""Results that commands have put in folders of their own, as the registry knows them."""
