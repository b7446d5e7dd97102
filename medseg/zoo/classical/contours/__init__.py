"""Moving contours, sparse decomposition, and saliency in films."""
