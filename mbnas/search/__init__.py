"""The search: what a candidate scores, who proposes candidates, and who evaluates them."""
