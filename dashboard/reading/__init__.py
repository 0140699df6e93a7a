"""Reader studies: their design, the order of their items, the reading itself, and what comes out of it. No pages."""
