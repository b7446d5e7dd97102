"""From cases as they lie to arrays as a network wants them: orientation, grid, intensities, crop, cache, augmentation."""
