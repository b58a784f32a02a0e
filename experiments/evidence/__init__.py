"""What does the method hold of what is claimed for it? Parts that can be run one by one, with their cost beforehand."""
