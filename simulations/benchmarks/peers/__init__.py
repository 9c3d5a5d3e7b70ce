"""Other ways to compute the same clipped update, each as its authors recommend it, to compare speeds with."""
