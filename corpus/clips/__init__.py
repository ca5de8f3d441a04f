"""Shots → clips: joined, cut, thinned out and chosen, by named recipes."""
