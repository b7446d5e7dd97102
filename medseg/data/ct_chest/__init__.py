"""The phantom of a chest CT: a person (anatomy, organs, bones, disease), what lies around, and a scanner."""
