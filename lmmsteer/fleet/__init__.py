"""Many cards, one plan: what is to do, who does it, and what came of it. The only room that knows Ray."""
