"""Are planted components found, and are found ones the same over seeds and sizes?"""
