"""Making a model that was hardened public: a folder that is checked, and its upload."""
