"""Many cards, one plan: what is to do, who does it, what came of it. The room that knows Ray."""
