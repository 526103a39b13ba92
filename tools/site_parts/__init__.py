"""The site of docs/: pages brought together (stage), references read from the code (commands, library), the build."""
