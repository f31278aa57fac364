"""Which form of ``A ** p * G`` finds what each word speaks of?"""
