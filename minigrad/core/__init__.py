"""The engine itself, to be read in one sitting, in this order: value, node, op, backward; then adjoint, mode."""
