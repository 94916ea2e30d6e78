"""The bundled model's autoencoder: a small `diffusers.AutoencoderKL` (f8) for photographs at 64 pixels.

Network and file format are diffusers'. The parts, in the order in which data passes them:

==============  =======================================================================================
`config`        everything one run depends on
`crops`         photographs and cut-outs to a pool of augmented crops
`network`       the network, widened or fresh, and the normalisation of its latents
`objective`     the reconstruction loss, and the resampling of latents that it is equivariant to
`trainer`       the training loop
`evaluation`    PSNR beside linear PCA of equal latent size, latent statistics, cost
`__main__`      python -m lab.autoencoder --photos DIR --output DIR --minutes 20
==============  =======================================================================================
"""
