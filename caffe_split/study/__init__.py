"""Studies: the same training under several seeds, arms and controls, scaled out by Snakemake."""
