"""Connection sequences: steps, notation, decoder, client model, properties."""
