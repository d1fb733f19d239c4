"""Transcripts that others wrote, into a store and out of it again, byte for byte."""
