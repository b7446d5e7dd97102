"""Pictures of what classical methods do, and the page that shows them: `medseg gallery classical`."""
