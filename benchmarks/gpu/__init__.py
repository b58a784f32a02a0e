"""The reference trainer on a GPU: is it right, is it fast, and what do ratios save at a size that needs one?"""
