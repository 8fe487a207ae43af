"""The methods of a study in words, with every number filled in from it, and a checklist of what a paper has to say."""
